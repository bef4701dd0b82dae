"""Every figure of the notebooks: pure functions from numbers to a matplotlib Figure, one file a chapter.

A figure's label (`fig.set_label`) is its alternative text, which `flux_edu.learn.explore` puts on the picture.
"""

from flux_edu.plots.chapter_01 import mu_line as mu_line
from flux_edu.plots.chapter_01 import noise_levels as noise_levels
from flux_edu.plots.chapter_01 import picture_row as picture_row
from flux_edu.plots.chapter_01 import schedule as schedule
from flux_edu.plots.chapter_01 import straight_path as straight_path
from flux_edu.plots.chapter_01 import time_shift_curve as time_shift_curve
from flux_edu.plots.chapter_02 import follow_patch as follow_patch
from flux_edu.plots.chapter_02 import patch_mistakes as patch_mistakes
from flux_edu.plots.chapter_02 import token_places as token_places
from flux_edu.plots.chapter_03 import rope_arrows as rope_arrows
from flux_edu.plots.chapter_03 import rope_axes as rope_axes
from flux_edu.plots.chapter_03 import rope_pairings as rope_pairings
from flux_edu.plots.chapter_03 import rope_precision as rope_precision
from flux_edu.plots.chapter_03 import rope_spectrum as rope_spectrum
from flux_edu.plots.chapter_03 import score_map as score_map
from flux_edu.plots.chapter_04 import attention_map as attention_map
from flux_edu.plots.chapter_04 import guidance_number as guidance_number
from flux_edu.plots.chapter_04 import modulated_token as modulated_token
from flux_edu.plots.chapter_04 import modulation_along_t as modulation_along_t
from flux_edu.plots.chapter_04 import quadrants as quadrants
from flux_edu.plots.chapter_04 import rounded_times as rounded_times
from flux_edu.plots.chapter_04 import scores_before_and_after as scores_before_and_after
from flux_edu.plots.chapter_04 import silent_mistakes as silent_mistakes
from flux_edu.plots.chapter_04 import terms_of_vec as terms_of_vec
from flux_edu.plots.chapter_04 import time_embedding as time_embedding
from flux_edu.plots.chapter_04 import where_a_word_is_read as where_a_word_is_read
from flux_edu.plots.chapter_05 import ablation as ablation
from flux_edu.plots.chapter_05 import block_costs as block_costs
from flux_edu.plots.chapter_05 import block_inside as block_inside
from flux_edu.plots.chapter_05 import gates_over_t as gates_over_t
from flux_edu.plots.chapter_05 import mistakes as mistakes
from flux_edu.plots.chapter_05 import modulation_moves as modulation_moves
from flux_edu.plots.chapter_05 import parallel_gap as parallel_gap
from flux_edu.plots.chapter_05 import token_norms as token_norms
from flux_edu.plots.chapter_06 import bf16_changes as bf16_changes
from flux_edu.plots.chapter_06 import bf16_figure as bf16_figure
from flux_edu.plots.chapter_06 import euler_paths as euler_paths
from flux_edu.plots.chapter_06 import guidance_plane as guidance_plane
from flux_edu.plots.chapter_06 import picture_rows as picture_rows
from flux_edu.plots.chapter_06 import start_level as start_level
from flux_edu.plots.chapter_06 import strength_levels as strength_levels
from flux_edu.plots.chapter_06 import two_point_velocity as two_point_velocity
from flux_edu.plots.style import new_figure as new_figure
