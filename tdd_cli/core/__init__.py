"""The method as tensor arithmetic. Imports torch and nothing of ours from outside this folder.

Read in this order: schedule (how noise mixes with data), times (which timesteps matter), targets (where a
student's jump lands), guidance, loss (the training step), clip, sampler, edit; device is how tensors get
where they are computed with.
"""
