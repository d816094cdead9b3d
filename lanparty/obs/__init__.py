"""What the programs tell people and scripts: events, counters, frame log, diagnostics, failures with exit statuses."""
