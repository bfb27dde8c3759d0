"""What went wrong: detectors, reports, and the bugs that drills inject."""
