"""The HTTP server. One thread owns the model and runs one request at a time; the event loop does everything else.

commands/serve.py → server (uvicorn, signals) → app (routes) → native, images, chat, … (one API each)
                                                            → service (builds turns, keeps results) → scheduler
"""
