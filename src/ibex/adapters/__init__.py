"""The technologies: one package each, none knows another. They do what ``ibex.domain`` decides."""
