"""What is missing here, how is it got, and does a fleet fit?"""
