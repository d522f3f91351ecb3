"""Segmenters: a picture and a concept in, the concept's pixels out."""
