"""What our Kubernetes objects look like: names, shapes and sums. Pure; objects are plain JSON dicts."""
