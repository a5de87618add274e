# What may be given with -var. Which TEEs, architectures and profiles there are is in the inputs of the image, which
# podvm.pkr.hcl reads; it compares these values with them.
variable "tee" {
  type        = string
  description = "The TEE: snp, tdx, se or none."
}

variable "arch" {
  type        = string
  default     = ""
  description = "The architecture; the TEE's first one when empty."
}

variable "profile" {
  type        = string
  default     = ""
  description = "The profile; when empty, prod with a kata-agent release, prod-test (which is no release) without."
}

variable "kata_agent_file" {
  type        = string
  default     = ""
  description = "The program kata-agent of a release."
}

variable "kata_agent_sha256" {
  type        = string
  default     = ""
  description = "Its digest; the pinned one when empty."
}

variable "guest_components_dir" {
  type        = string
  default     = ""
  description = "Folder with confidential-data-hub and its kin."
}

variable "out_dir" {
  type        = string
  default     = ""
  description = "Folder of the image; build/images/TEE-ARCH-PROFILE of the source when empty."
}

variable "lock" {
  type        = string
  default     = "anew"
  description = "Strict: only the locked packages; anew: the archive's newest, and the drift is said."
  validation {
    condition     = var.lock == "strict" || var.lock == "anew"
    error_message = "The lock is strict or anew."
  }
}

variable "formats" {
  type        = bool
  default     = true
  description = "Whether qcow2 and VHD are made beside the raw disk."
}

variable "signing_key" {
  type        = string
  default     = ""
  description = "Private key (PEM, ed25519) that signs the image; the cache's own, which proves nothing, when empty."
}

variable "se_files" {
  type        = map(string)
  default     = {}
  description = "Secure Execution: kernel, initrd, cmdline, stage3a, stage3b and root (the root certificate to trust)."
}

variable "host_key_documents" {
  type        = list(string)
  default     = []
  description = "Secure Execution: of the machines that may run the image; always verified."
}

variable "host_key_certificates" {
  type        = list(string)
  default     = []
  description = "Secure Execution: certificates between the host key documents and the root."
}

variable "host_key_revocations" {
  type        = list(string)
  default     = []
  description = "Secure Execution: revocation lists."
}
