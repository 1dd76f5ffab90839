"""The page at `/`: chat, models, data, jobs and climbs of this server, in a browser.

Made with NiceGUI, an extra (`pip install "rung[page]"`), which brings all that the browser needs. It is
imported when somebody opens the page for the first time, so that a server that nobody looks at pays
nothing for it.
"""
