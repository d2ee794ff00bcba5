"""Prefect flows over the stages of dvc.yaml; no pixel and no tensor here."""
