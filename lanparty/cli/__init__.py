"""What every program's command line shares: options, configuration file, signals, exit statuses."""
