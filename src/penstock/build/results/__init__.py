"""What training left: the model, MLflow's runs, figures; and why there is none."""
