# The finished disk as an image of Compute Engine: a tar.gz with disk.raw, imported by googlecompute-import.
# Packer 1.6.6 has it built in; newer ones: packer init packer/plugins/versions.pkr.hcl
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

variable "project" {
  type = string
}

variable "bucket" {
  type        = string
  description = "Storage bucket for the disk while it is imported."
}

variable "name" {
  type        = string
  default     = ""
  description = "Name of the image; IMAGE_ID-TEE-ARCH when empty."
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
  archive    = "${local.image_dir}.gcp.tar.gz"
  options    = [local.image_dir, local.public_key, local.release, local.variant.tee, local.archive]
  capable    = { snp = ["SEV_SNP_CAPABLE"], tdx = ["TDX_CAPABLE"] }
}

source "null" "podvm" {
  communicator = "none"
}

build {
  sources = ["null.podvm"]

  provisioner "shell-local" {
    script          = "${path.root}/pack.sh"
    execute_command = concat(["/bin/bash", "{{.Script}}"], local.options)
  }

  post-processors {
    post-processor "artifice" {
      files = [local.archive]
    }
    post-processor "googlecompute-import" {
      project_id              = var.project
      bucket                  = var.bucket
      image_name              = local.name
      image_description       = "Pod VM, image ${local.image.image_id}, version ${local.image.version}"
      image_guest_os_features = concat(["UEFI_COMPATIBLE", "GVNIC"], lookup(local.capable, local.variant.tee, []))
    }
  }
}
