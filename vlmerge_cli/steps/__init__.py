"""What several tasks and training loops are made of: passes, evaluation over ranks, ranking, noise."""
