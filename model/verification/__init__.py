"""Verification of a checkpoint: are its files whole, and does it draw the pictures that it should draw?"""
