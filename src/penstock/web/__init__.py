"""The web application on port 8420: dashboard, API, and git over HTTP.

app.create_app -> access (who may ask at all) -> git     pushes, through git's own http-backend
                                              -> api     JSON, for the command line and scripts
                                              -> pages   HTML, drawn by the server

It reads the records and calls the acts that `control.Control` brings; it decides nothing.
`events` turns a run's or a rollout's rows into what terminals and browsers follow.
"""
