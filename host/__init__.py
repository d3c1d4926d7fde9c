"""All that is on a host: its program (apollo/), units and configuration (files/); render.py makes user-data of them."""
