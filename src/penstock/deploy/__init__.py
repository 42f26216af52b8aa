"""Deploy: move a version into an environment, a share of the traffic at a time.

staging     the test environment          approval   the question to people
rollout     start, look, hold, promote, give back     canary     the judge
"""
