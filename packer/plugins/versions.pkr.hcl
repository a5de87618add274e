# For packer 1.7 and newer, whose builders of clouds are plugins; once: packer init packer/plugins/versions.pkr.hcl
# Packer 1.6.6 has all of them built in and refuses this block, so it lies apart. The image itself needs no plugin.
packer {
  required_plugins {
    googlecompute = {
      source  = "github.com/hashicorp/googlecompute"
      version = ">= 1.1.0"
    }
  }
}
