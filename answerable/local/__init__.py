"""Run the function on this machine: events, Lambda, SQS."""
