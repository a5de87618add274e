"""What a TEE will report of an image, computed offline: SNP, TDX, vTPM, Secure Execution. Pure, bytes to digests."""
