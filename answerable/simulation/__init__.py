"""What `answerable simulate-release` is made of: the template, the versions, the traffic and the play."""
