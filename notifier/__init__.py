"""Tells people: takes transitions in, knows who was told what, and has messages delivered.

Nothing is imported here, so that commands can read alerts without loading what delivers them.
"""
