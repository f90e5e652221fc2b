"""Bits per class: what a distilled set costs to store, and ways to make it cost less. Others ask `accounting` alone."""
