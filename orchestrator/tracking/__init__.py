"""How does a run get to MLflow, and what does it leave of its models?"""
