"""Descriptions of loss kinds, generated from their classes."""
