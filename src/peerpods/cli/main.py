"""The `peerpods` command."""

from __future__ import annotations

import click

from peerpods.cli.doctor import doctor
from peerpods.cli.image import image
from peerpods.cli.run import run
from peerpods.cli.show import console, inspect, ps
from peerpods.cli.uninstall import uninstall


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option("0.1.0", prog_name="peerpods")
def cli() -> None:
    """Pods in virtual machines of their own: run one, look at them, check this machine."""


for command in (run, ps, inspect, console, doctor, uninstall, image):
    cli.add_command(command)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="peerpods")


if __name__ == "__main__":
    main()
