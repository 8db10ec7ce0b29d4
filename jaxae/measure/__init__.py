"""Measures of trained models: functions of arrays, or of a model and its data."""
