"""What serving programs make of a pruned model: what a form of pruning gains there, which shapes and model
types they refuse, and which of them an installation has. It is plain data, known before anything is computed,
and needs neither torch nor the programs themselves."""
