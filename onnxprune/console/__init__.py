"""What the command line needs besides the commands: flags, configuration files, progress, output files, exit codes."""
