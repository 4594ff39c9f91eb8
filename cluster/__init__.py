"""What people run and submit: the command line and the jobs behind it."""
