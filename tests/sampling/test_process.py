import torch
from diffusers import DDPMScheduler

from slimdiff.sampling import process_of


def test_the_process_of_a_scheduler():
    scheduler = DDPMScheduler(num_train_timesteps=50, beta_schedule='squaredcos_cap_v2', prediction_type='v_prediction')
    process = process_of(scheduler)
    assert process['prediction_type'] == 'v_prediction'
    assert 'clip_sample' not in process['schedule'] and 'trained_betas' not in process['schedule']
    torch.testing.assert_close(DDPMScheduler(**process['schedule']).alphas_cumprod, scheduler.alphas_cumprod)
