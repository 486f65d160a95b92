"""Files elsewhere: brought here when they are read; see ``vidcap_cli.remote.cache``."""
