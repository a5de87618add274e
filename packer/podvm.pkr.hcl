# The pod VM image, by the same engine as `make image`: nothing is booted, and the result is the same to the byte.
#
#   packer build -var tee=snp packer/
#
# All facts come from the two tables of the engine; the locals below only choose from them. No try() around a local:
# packer 1.6.6 evaluates locals until none fails, so it would take the fallback for one whose turn has not come.
locals {
  top    = dirname(abspath(path.root))
  inputs = jsondecode(file("${local.top}/src/peerpods/image/inputs.json"))
  table  = jsondecode(file("${local.top}/src/peerpods/image/units.json"))

  tees          = keys(local.inputs.tees)
  architectures = local.inputs.tees[local.tee].architectures
  arch          = var.arch == "" ? local.architectures[0] : var.arch
  agent         = var.kata_agent_file == "" ? "development" : "kata"
  profiles      = keys(local.inputs.profiles)
  profile       = var.profile != "" ? var.profile : local.agent == "kata" ? "prod" : "prod-test"
  facts         = local.inputs.profiles[contains(local.profiles, local.profile) ? local.profile : "prod"]
  name          = "${var.tee}-${local.arch}-${local.profile}"
  out_dir       = var.out_dir == "" ? "${local.top}/build/images/${local.name}" : abspath(var.out_dir)
  # Of a known one where the given one is wrong, so that local.wrong is all that is said.
  machines     = local.inputs.architectures
  machine      = local.machines[contains(keys(local.machines), local.arch) ? local.arch : "amd64"]
  tee          = contains(local.tees, var.tee) ? var.tee : "none"
  agents       = local.inputs.pins.kata_agent.releases
  pin          = local.agents[contains(keys(local.agents), local.arch) ? local.arch : "amd64"].sha256
  agent_sha256 = var.kata_agent_sha256 != "" ? var.kata_agent_sha256 : local.pin == null ? "" : local.pin

  # What this image is going to hold. The last word of the command line, the root hash, is known after the build.
  command_line = join(" ", local.facts.layout == "minimal" ? local.inputs.command_line.minimal : concat(
    ["console=${local.machine.console}"],
    local.inputs.command_line.system,
    local.inputs.command_line.tees[local.tee],
    local.profile == "debug" ? local.inputs.command_line.debug : [],
  ))
  units = [
    for unit in local.table : unit if contains(unit.layouts, local.facts.layout)
    && (length(try(unit.profiles, [])) == 0 || contains(try(unit.profiles, [""]), local.profile))
    && (length(try(unit.agents, [])) == 0 || contains(try(unit.agents, [""]), local.agent))
  ]
  exec_start = { for unit in local.units : unit.name => join(" ", try(unit.exec, [])) }

  # One sentence about values that fit no image; "" when they do.
  wrong = (
    contains(local.tees, var.tee) == false
    ? "TEE=${var.tee}: choose one of ${join(", ", local.tees)}"
    : contains(local.architectures, local.arch) == false
    ? "TEE=${var.tee} does not exist on ARCH=${local.arch}: give arch=${join(" or ", local.architectures)}"
    : contains(local.profiles, local.profile) == false
    ? "PROFILE=${local.profile}: choose one of ${join(", ", local.profiles)}"
    : local.facts.layout == "minimal" && "${var.tee}-${local.arch}" != "none-amd64"
    ? "PROFILE=${local.profile} is for TEE=none ARCH=amd64 only"
    : var.tee != "se" && local.facts.agent == "release" && local.agent != "kata"
    ? "PROFILE=${local.profile} needs kata_agent_file, kata_agent_sha256 and guest_components_dir"
    : var.tee == "se" && length(var.host_key_documents) == 0
    ? "TEE=se needs se_files, host_key_documents, host_key_certificates and host_key_revocations"
    : local.agent != "kata" && "${var.kata_agent_sha256}${var.guest_components_dir}" != ""
    ? "kata_agent_sha256 and guest_components_dir need kata_agent_file"
    : local.agent == "kata" && local.agent_sha256 == ""
    ? "kata_agent_file needs kata_agent_sha256, since no digest is pinned"
    : local.agent == "kata" && var.guest_components_dir == ""
    ? "kata_agent_file needs guest_components_dir"
    : ""
  )
  # Packer 1.6.6 has no assertion. The error names local.wrong with its value; newer ones show it as the missing file.
  checked = local.wrong == "" ? "" : file(local.wrong)

  # Secure Execution packs given files of an s390x root; all others are built from packages.
  options = var.tee == "se" ? local.pack : local.build
  pack = flatten([
    ["se", "--profile", local.profile, "--out", local.out_dir],
    [for name, file in var.se_files : ["--${name}", abspath(file)]],
    [for file in var.host_key_documents : ["--host-key", abspath(file)]],
    [for file in var.host_key_certificates : ["--certificate", abspath(file)]],
    [for file in var.host_key_revocations : ["--crl", abspath(file)]],
    var.signing_key == "" ? [] : ["--signing-key", abspath(var.signing_key)],
  ])
  build = flatten([
    ["build"],
    ["--tee", var.tee, "--arch", local.arch, "--profile", local.profile, "--lock", var.lock, "--out", local.out_dir],
    local.agent != "kata" ? [] : ["--kata-agent", abspath(var.kata_agent_file)],
    local.agent != "kata" ? [] : ["--kata-agent-sha256", local.agent_sha256],
    var.guest_components_dir == "" ? [] : ["--guest-components", abspath(var.guest_components_dir)],
    var.signing_key == "" ? [] : ["--signing-key", abspath(var.signing_key)],
    var.formats ? [] : ["--no-formats"],
  ])

  artefacts = concat(
    ["${local.out_dir}/*.*", "${local.out_dir}/firmware/*"],
    [for name in ["vmlinuz", "cmdline", "roothash", "SHA256SUMS"] : "${local.out_dir}/${name}"],
  )
}

source "null" "podvm" {
  communicator = "none"
}

build {
  sources = ["null.podvm"]

  provisioner "shell-local" {
    script          = "${path.root}/build.sh"
    execute_command = concat(["/bin/bash", "{{.Script}}"], local.options)
  }

  # Packer's own files lie beside the image's folder: in it, only what its signature covers may be.
  post-processors {
    post-processor "artifice" {
      files = local.artefacts
    }
    post-processor "checksum" {
      keep_input_artifact = true
      checksum_types      = ["sha256"]
      output              = "${local.out_dir}.packer.{{.ChecksumType}}"
    }
  }
  post-processors {
    post-processor "artifice" {
      files = local.artefacts
    }
    post-processor "manifest" {
      keep_input_artifact = true
      output              = "${local.out_dir}.packer.json"
      strip_path          = true
      custom_data = {
        tee          = var.tee
        arch         = local.arch
        profile      = local.profile
        image_id     = local.facts.image_id
        agent        = local.agent
        agent_sha256 = local.agent_sha256
        command_line = local.command_line
        units        = join(" ", [for unit in local.units : unit.name])
      }
    }
  }
}
