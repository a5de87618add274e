"""Clouds: the provider interface, its registry, and one package a provider."""
