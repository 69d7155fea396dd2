"""The viewer: a film with its labels on top, in a browser on this machine, and corrections of them."""
