# The finished disk as a version of an image in a compute gallery: the fixed VHD as a page blob, then the image version.
# Any packer from 1.6.6 on, and the Azure command line. The builder azure-arm starts a VM and changes it, which no
# measurement survives. Disks of confidential VMs: encrypt with the platform's key when the VM is made.
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

variable "resource_group" {
  type = string
}

variable "location" {
  type = string
}

variable "storage_account" {
  type = string
}

variable "container" {
  type    = string
  default = "podvm"
}

variable "gallery" {
  type = string
}

variable "name" {
  type        = string
  default     = ""
  description = "Name of the image definition; IMAGE_ID-TEE-ARCH when empty."
}

variable "image_version" {
  type    = string
  default = "1.0.0"
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
  options = [
    local.image_dir, local.public_key, local.release, local.variant.tee, local.name, var.resource_group,
    var.location, var.storage_account, var.container, var.gallery, var.image_version,
  ]
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
