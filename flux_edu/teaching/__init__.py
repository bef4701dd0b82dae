"""What the notebooks add to the package: read a function, move a slider, check an exercise, guess a result."""

from flux_edu.teaching.exercise import check as check
from flux_edu.teaching.panel import explore as explore
from flux_edu.teaching.panel import show_picture as show_picture
from flux_edu.teaching.quiz import quiz as quiz
from flux_edu.teaching.source import show as show
