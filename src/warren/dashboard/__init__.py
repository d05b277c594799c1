"""``warren dashboard``: what runs, seen in a browser. An edge: nothing imports it but its command.

What is shown is what processes say over the control plane: claims of peers, which are read in `reading` alone,
bounded and escaped; in the browser they are text, never HTML.
"""
