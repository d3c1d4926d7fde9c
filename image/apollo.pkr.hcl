# Bakes an AMI that has what the hosts' first boot would install: Debian 12 and the package lists below host/files/packages.
# (unproved: the template was never run on AWS; the script it runs also makes the local stack's root filesystem)
#
#   packer init image && packer build -var region=eu-west-1 image
#
# Then set image.owner to your account and image.name to apollo-debian-12-*, and image.baked to true.

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.3"
    }
  }
}

variable "region" {
  type        = string
  description = "Where the AMI is made. Copies to other regions are named in copy_to."
}

variable "copy_to" {
  type        = list(string)
  default     = []
  description = "Further regions that get a copy."
}

variable "roles" {
  type        = list(string)
  default     = ["slave", "control", "edge"]
  description = "Whose packages go in. One image for all roles is the simplest to roll."
}

locals {
  stamp = formatdate("YYYYMMDD-hhmm", timestamp())
  # Where first boot has the same two on a host.
  files = "${path.root}/../host/files/packages/usr/local/lib/apollo"
}

source "amazon-ebs" "debian" {
  region        = var.region
  ami_regions   = var.copy_to
  ami_name      = "apollo-debian-12-${local.stamp}"
  instance_type = "t3.small"
  ssh_username  = "admin"

  # Debian's own account.
  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      virtualization-type = "hvm"
    }
  }

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  imds_support = "v2.0"

  tags = {
    Name          = "apollo-debian-12-${local.stamp}"
    "apollo:base" = "{{ .SourceAMIName }}"
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    sources     = ["${local.files}/provision", "${local.files}/packages"]
    destination = "/tmp/"
  }

  provisioner "shell" {
    script          = "${path.root}/provision.sh"
    execute_command = "chmod +x {{ .Path }}; sudo {{ .Path }} ${join(" ", var.roles)}"
  }
}
