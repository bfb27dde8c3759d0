"""The bugs that drills inject: one short file a stage, each bug a pure function of tables."""
