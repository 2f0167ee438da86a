"""Mutation testing of handler/: are its unit tests strong enough to notice a changed program?"""
