"""What do people look at: pages, pictures and tables of runs and fleets?"""
