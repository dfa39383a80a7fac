"""The text experiment: exams (what is asked), plans (which policy at which size), cells (rows), and how they look."""
