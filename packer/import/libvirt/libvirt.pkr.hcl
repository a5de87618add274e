# The finished disk as a volume of a libvirt storage pool, by virsh. Any packer from 1.6.6 on: none has a builder for it.
# With TEE=snp the VM also gets firmware/OVMF.amdsev.fd and the UKI as -kernel from the folder: they bind the disk.
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

variable "uri" {
  type    = string
  default = "qemu:///system"
}

variable "pool" {
  type    = string
  default = "default"
}

variable "name" {
  type        = string
  default     = ""
  description = "Name of the volume; IMAGE_ID-TEE-ARCH when empty."
}

variable "format" {
  type    = string
  default = "qcow2"
  validation {
    condition     = var.format == "qcow2" || var.format == "raw"
    error_message = "The format is qcow2 or raw."
  }
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
  options    = [local.image_dir, local.public_key, local.release, local.name, var.uri, var.pool, var.format]
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
