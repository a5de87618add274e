"""What a pod VM of the system layout does before anyone may talk to it. Standard library and userdata only."""
