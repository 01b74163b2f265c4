"""The subcommands of ``mrl-course``, one module each."""
