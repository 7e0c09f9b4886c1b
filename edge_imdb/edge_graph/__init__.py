"""The int8 graph that runs on the device: its writer and its reader."""
