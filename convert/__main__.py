"""The conversion program: `python -m convert to-jax | to-torch | inspect | verify`."""

from collections.abc import Sequence

from instantid_jax.cli.entry import entry, run_command


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Bad input ends with one line and status 2."""
    with entry("convert"):
        import jax

        # On the host, so that networks may exceed an accelerator's memory.
        jax.config.update("jax_platforms", "cpu")
        from convert.inspection import inspect
        from convert.to_jax import to_jax
        from convert.to_torch import to_torch
        from convert.verify import verify

        run_command(
            "python -m convert",
            {"to-jax": to_jax, "to-torch": to_torch, "inspect": inspect, "verify": verify},
            args,
            "Converts InstantID's and SDXL's weights between PyTorch's files and JAX's.",
        )


if __name__ == "__main__":
    main()
