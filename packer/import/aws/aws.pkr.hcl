# The finished disk as an AMI: uploaded, imported as a snapshot, registered with UEFI boot and a TPM.
# Any packer from 1.6.6 on, and the AWS command line. No surrogate machine: amazon-ebssurrogate would start one only to
# copy bytes, and its 1.6.6 cannot set the boot mode; amazon-import looks for an installed system, and finds none in a
# verity root. The role vmimport has to be able to read the bucket.
# SEV-SNP is asked for when a VM is started: --cpu-options AmdSevSnp=enabled.
variable "image_dir" {
  type        = string
  description = "Folder of the finished image."
}

variable "public_key" {
  type        = string
  description = "Key (PEM, ed25519) of whom the image has to be signed by."
}

variable "release" {
  type        = bool
  default     = true
  description = "Whether an image that is no release, such as prod-test, is refused."
}

variable "region" {
  type = string
}

variable "bucket" {
  type        = string
  description = "S3 bucket for the disk while it is imported."
}

variable "name" {
  type        = string
  default     = ""
  description = "Name of the AMI; IMAGE_ID-TEE-ARCH when empty."
}

variable "uefi_data" {
  type        = string
  default     = ""
  description = "File with UEFI variables (base64, as virt-fw-vars writes them) with own Secure Boot keys."
}

locals {
  image_dir  = abspath(var.image_dir)
  manifest   = "${local.image_dir}/manifest.json"
  wrong      = fileexists(local.manifest) ? "" : "${local.image_dir} is no finished image: it has no manifest.json"
  checked    = local.wrong == "" ? "" : file(local.wrong)
  image      = jsondecode(local.wrong == "" ? file(local.manifest) : local.empty)
  empty      = jsonencode({ image_id = "", version = "", variant = { tee = "", arch = "" } })
  variant    = local.image.variant
  release    = var.release ? "true" : "false"
  public_key = abspath(var.public_key)
  name       = var.name == "" ? "${local.image.image_id}-${local.variant.tee}-${local.variant.arch}" : var.name
  options = concat(
    [local.image_dir, local.public_key, local.release, local.variant.tee, local.name, var.region, var.bucket],
    var.uefi_data == "" ? [] : [var.uefi_data],
  )
}

source "null" "podvm" {
  communicator = "none"
}

build {
  sources = ["null.podvm"]

  provisioner "shell-local" {
    script          = "${path.root}/import.sh"
    execute_command = concat(["/bin/bash", "{{.Script}}"], local.options)
  }
}
