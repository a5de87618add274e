"""What is published beside an image: reference values, bills of materials, provenance, signature; and their checks."""
