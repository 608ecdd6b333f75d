"""What a replica's database is asked and told beside its rows: progress, who writes, whether tables fit."""
