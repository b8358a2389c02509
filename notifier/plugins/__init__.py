"""The delivery plugins, one file each; ``notifier.plugin.PLUGINS`` names them."""
