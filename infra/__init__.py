"""Ground floor: settings, the clock, homes and branches, the lake."""
