"""What of a study can run here, what is missing, how much room it needs and how long it takes. Nothing is run or changed."""
